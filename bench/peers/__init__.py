"""What a user would pick instead, written as its documentation says."""
