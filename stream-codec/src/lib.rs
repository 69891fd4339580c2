//! Sans-IO readers and writers for device-migration streams.
#![no_std]
