"""DOC"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.data.name = "imagenet512_latents"
    config.model.image_size = 64
    return config
