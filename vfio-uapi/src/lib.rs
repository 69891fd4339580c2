//! Typed, I/O-safe VFIO device-migration ioctls.
