"""Judge generated images: features, distances, pictures and the report a user opens.

Images go through a small classifier trained on the same data (`features`), its hidden layer is
compared between generated and real images (`distances`), and the numbers meet the images in one
HTML file (`report`, `pictures`). Nothing here knows the diffusion model or the sampler.
"""
