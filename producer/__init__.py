"""Events into the stream: the simulated fleet and the replay of files. Imports schemas; never models, never torch."""
