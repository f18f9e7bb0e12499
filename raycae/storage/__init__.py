"""Files that are whole or absent, in local folders and object stores."""
