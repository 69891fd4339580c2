//! VFIO answered in user space, for `LD_PRELOAD`.
