//! What the programs do, callable from a user's own `main`.
