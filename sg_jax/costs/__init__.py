"""What a program costs: counted from shapes, and estimated by the TPU compiler."""
