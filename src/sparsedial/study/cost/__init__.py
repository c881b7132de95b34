"""What a study takes: memory, time and disk, estimated from the shapes of its models and measured forward passes."""
