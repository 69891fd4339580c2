// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's streams, explained.

mod facts;
mod fields;
mod multifd;
mod packets;
mod parts;
mod ram;
mod return_path;
mod section;
mod stream;
mod vfio;

pub(super) use self::facts::{MainFacts, Stage};
pub(super) use self::multifd::{ChannelFacts, explain as explain_multifd, first_packet};
pub(super) use self::return_path::{AnswerFacts, explain as explain_return_path};
pub(super) use self::stream::explain as explain_main;
