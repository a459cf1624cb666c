"""The stages of a run put together: data, module and trainer, then every model scored."""
