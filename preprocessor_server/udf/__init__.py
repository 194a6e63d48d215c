"""User-defined functions: columns made by Python code, in processes of their own.

The worker's side (worker, call, types, wire) imports neither gRPC nor the rest of the server.
"""
