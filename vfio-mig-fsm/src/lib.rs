//! The VFIO migration state machine, as data.
#![no_std]
