"""Devices and processes: the mesh, the sharding rule, and work shared by several processes."""
