"""What a policy learns by: one small trainer per objective, on the loop they all share."""
