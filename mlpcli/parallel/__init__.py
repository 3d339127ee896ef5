"""Several processes that train one network: numbers between them (comm), their start and stop (control)."""
