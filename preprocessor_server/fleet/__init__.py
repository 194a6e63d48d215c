"""Fleets of servers on a Ray cluster; ray is imported only when one is asked for."""
