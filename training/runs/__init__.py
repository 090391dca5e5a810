"""Run infrastructure: directory, config, loop, processes, hosts, log."""
