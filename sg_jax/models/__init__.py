"""Networks: conditioning, layers, blocks and the backbones built from them."""
