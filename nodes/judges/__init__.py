"""Nodes for judges of other kinds: on a server, calibrated, several as one."""
