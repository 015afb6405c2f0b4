"""Windows by event time, the network, its artifact, training, evaluation and the runtime. Knows no Kafka."""
