//! Live migration of VFIO device state.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "sim")]
pub mod sim;
