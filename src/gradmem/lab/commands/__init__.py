"""The commands of ``gradmem``, one file for those that belong together.

Each file has ``register``, which adds its commands to the application. Nothing heavy is imported
before a command runs: ``gradmem --help`` does not wait for torch.
"""
