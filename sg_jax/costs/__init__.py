"""What a program costs: counted from shapes, and read off the TPU compiler."""
