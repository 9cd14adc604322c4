"""The stages of the chain, one module each, in their order: context, access_log, metrics, errors, auth, validation."""
