"""The network's sizes that the contract does not give."""

from typing import Self

from pydantic import Field, model_validator

from schemas.fields import Strict


class NetworkSize(Strict):
    """The sizes that the contract does not give."""

    hidden_size: int = Field(default=32, ge=1, le=4096)
    attention_head_size: int = Field(default=8, ge=1, le=256)
    hidden_continuous_size: int = Field(default=16, ge=1, le=4096)
    lstm_layers: int = Field(default=1, ge=1, le=16)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.attention_head_size > self.hidden_size:
            raise ValueError(f"attention_head_size {self.attention_head_size} exceeds hidden_size {self.hidden_size}")
        return self
