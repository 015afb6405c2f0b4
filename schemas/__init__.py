"""The contract: annotated Avro schemas, the reader of the annotations, records, codec, registry and topics.

Imports nothing else of ours and no torch.
"""
