"""AGE for erasekit: the concept that erased ones are mapped to is searched, as a mixture."""
