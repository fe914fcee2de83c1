"""Devices and processes: the mesh, the rule for shardings, work of several processes."""
