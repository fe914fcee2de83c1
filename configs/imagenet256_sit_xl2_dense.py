"""DOC"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.objective.gamma = 0.0
    return config
