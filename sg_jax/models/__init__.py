"""Networks: conditioning, layers, blocks and the backbones built of them."""
