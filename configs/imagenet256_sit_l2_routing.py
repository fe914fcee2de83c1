"""DOC"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.model.update(dict(size="L/2", routes=((2, 20),)))
    return config
