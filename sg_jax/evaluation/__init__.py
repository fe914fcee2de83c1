"""Judge generated images: features, distances, pictures and the report a user opens.

Images go through a small classifier trained on the same data (`classifier`, `features`), its hidden
layer is compared between generated and real images (`distances`), and numbers and images meet in
one HTML file (`results`, `pictures`, `report`). Nothing here knows the networks that draw.
"""
