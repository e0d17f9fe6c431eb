//! Safe functions over `csrc/api.h`.
