"""How one attempt at a stage is carried out where a plain call is not enough: as a coroutine, or with a time limit."""
