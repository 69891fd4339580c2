// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty pages of a type1 container.

use std::format;
use std::os::fd::AsFd;
use std::string::String;

use vfio_uapi::open::{Container, DirtyPagesInfo};

use super::{bitmap, failed, hand_in};
use crate::dirty::marks::Marks;
use crate::dirty::range::Range;
use crate::dirty::tracker::{DirtyTracker, Doing, Extended, TrackError};

/// The dirty pages of a container (`VFIO_IOMMU_DIRTY_PAGES`): what its devices pinned or wrote. If one of them does not say what it
/// pins, all of memory is dirty at every reading.
///
/// Slots must be whole mappings of the container, one or several: the kernel refuses to read part of one. A slot of more than 8 TiB is
/// more than a bitmap may cover.
#[derive(Debug)]
pub struct ContainerLog<F> {
    container: Container<F>,
    name: String,
    page_bytes: u64,
}

impl<F: AsFd> ContainerLog<F> {
    /// Of a container, which takes the page size that it named in [`Container::iommu_info`]. `name` is what to call it in errors.
    ///
    /// # Errors
    /// The container, when it named none.
    pub fn new(container: Container<F>, info: DirtyPagesInfo, name: &str) -> Result<Self, Container<F>> {
        match info.page_size() {
            Some(page_bytes) => Ok(Self { container, name: format!("{name} (type1 container)"), page_bytes }),
            None => Err(container),
        }
    }
}

impl<F: AsFd + Send> DirtyTracker for ContainerLog<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, _: &[Range]) -> Result<(), TrackError> {
        self.container.start_dirty_pages().map_err(|error| failed(&self.name, Doing::Start, &error))
    }

    fn extend(&mut self, _: Range) -> Result<Extended, TrackError> {
        Ok(Extended::Tracked)
    }

    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError> {
        let doing = Doing::Read(range);
        let mut bitmap = bitmap(&self.name, doing, range, self.page_bytes)?;
        self.container.dirty_pages(&mut bitmap).map_err(|error| failed(&self.name, doing, &error))?;
        hand_in(&self.name, doing, &bitmap, marks)
    }

    fn stop(&mut self) -> Result<(), TrackError> {
        self.container.stop_dirty_pages().map_err(|error| failed(&self.name, Doing::Stop, &error))
    }
}

/// Unmaps a range and marks the pages that were dirty to the last, for [`Tracking::unmap`](crate::dirty::Tracking::unmap). Returns the
/// bytes that were mapped there. `page_bytes` as the container [named it](DirtyPagesInfo::page_size).
///
/// # Errors
/// When the unmapping fails; part of it may be unmapped then.
pub fn unmap_dirty<F: AsFd>(
    container: &Container<F>,
    page_bytes: u64,
    range: Range,
    marks: &mut Marks<'_>,
) -> Result<u64, TrackError> {
    let (name, doing) = ("the container's UNMAP", Doing::Read(range));
    let mut bitmap = bitmap(name, doing, range, page_bytes)?;
    let bytes = container.unmap_dma_dirty(&mut bitmap).map_err(|error| failed(name, doing, &error))?;
    hand_in(name, doing, &bitmap, marks)?;
    Ok(bytes)
}
