"""The hand-derived gradients and whole training steps against independent ones, by the functions that train."""
