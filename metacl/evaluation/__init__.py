"""Following tasks and asking questions; measures of what is found."""
