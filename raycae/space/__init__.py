"""What may be searched: a YAML file, its parameters, and drawn configurations."""
