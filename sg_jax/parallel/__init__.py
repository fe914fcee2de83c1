"""Devices and processes: the mesh, the rule of shardings, what several processes do together."""
