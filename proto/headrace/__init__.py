"""The contract between preprocessor_server and trainer_client, generated from proto/."""
