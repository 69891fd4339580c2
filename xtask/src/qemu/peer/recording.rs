// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rest of a machine, out of a file that a QEMU of the same version and machine type wrote.

use std::path::Path;
use std::sync::Arc;

use savevm_core::Hooks;
use savevm_core::qemu::SourceMachine;
use savevm_core::qemu::source::Part;
use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{Command, Item, MainDecoder, MainOptions, SectionHeader, VfioRecord, Vmdesc, VmdescLimits};

use super::guest::Guest;
use crate::qemu::machine::idstr;

/// A machine of which everything but the VFIO devices is known.
pub(super) struct Recording {
    stream: Vec<u8>,
    options: MainOptions,
    /// Changes a byte of the config states: where.
    pub(super) damage_config: Option<usize>,
    /// Its RAM is not sent from here: this guest runs between two rounds.
    pub(super) guest: Option<Arc<Guest>>,
}

/// Where in the stream an item stands.
#[derive(Clone, Copy)]
struct Place {
    part: Part,
    is_device: bool,
}

impl Recording {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let stream = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let json = Vmdesc::locate(&stream).and_then(|range| stream.get(range));
        let json = json.ok_or_else(|| format!("{} does not end with a description", path.display()))?;
        let vmdesc = Vmdesc::parse(json, &VmdescLimits::DEFAULT).map_err(|error| error.to_string())?;
        Ok(Self {
            options: MainOptions { vmdesc: Some(vmdesc), ..MainOptions::default() },
            stream,
            damage_config: None,
            guest: None,
        })
    }

    /// Hands over every item.
    pub(super) fn each_item(&self, mut handle: impl FnMut(&Item<'_>) -> Result<(), String>) -> Result<(), String> {
        self.each(|_, _, item| handle(item))
    }

    /// Hands over every item, with the part it belongs to.
    fn each(&self, mut handle: impl FnMut(Place, &str, &Item<'_>) -> Result<(), String>) -> Result<(), String> {
        let mut decoder = MainDecoder::new(self.options.clone());
        let mut rest = self.stream.as_slice();
        let mut place = Place { part: Part::Configuration, is_device: false };
        let mut name = String::new();
        loop {
            let step = decoder.decode(rest).map_err(|error| format!("the recording: {error}"))?;
            let Step { consumed, event: Some(event) } = step else { return Ok(()) };
            let item = &event.item;
            match item {
                Item::Section(SectionHeader { idstr, .. }) => {
                    name = (*idstr).to_owned();
                    place.is_device = idstr.ends_with("/vfio");
                    place.part = match (place.part, item) {
                        (Part::Configuration, _) => Part::Start,
                        (Part::End, Item::Section(header)) if header.kind.is_named() => Part::Full,
                        (part, _) => part,
                    };
                }
                Item::Command(Command::SwitchoverStart) => place.part = Part::End,
                Item::EndOfStream => place.part = Part::Description,
                _ => {}
            }
            let is_frame = matches!(item, Item::FileHeader | Item::Command(_) | Item::EndOfStream);
            if !is_frame {
                handle(place, &name, item)?;
            }
            rest = rest.get(consumed..).unwrap_or_default();
        }
    }
}

impl Hooks for Recording {}

impl SourceMachine for Recording {
    fn write(&mut self, part: Part, put: &mut dyn FnMut(&Item<'_>) -> Result<(), String>) -> Result<(), String> {
        if let (Part::Round, Some(guest)) = (part, &self.guest) {
            guest.run()?;
        }
        let leaves_out = |name: &str, item: &Item<'_>| {
            self.guest.is_some()
                && name == "ram"
                && matches!(item, Item::Section(_) | Item::Ram(_) | Item::Footer { .. })
        };
        self.each(
            |place, name, item| {
                if place.part == part && !place.is_device && !leaves_out(name, item) { put(item) } else { Ok(()) }
            },
        )
    }

    fn config(&mut self, index: usize) -> Result<Vec<u8>, String> {
        let (wanted, mut config) = (idstr(index), Vec::new());
        self.each(|_, name, item| {
            match item {
                Item::Vfio(VfioRecord::ConfigState(state)) if name == wanted => state.encode(&mut config),
                _ => {}
            }
            Ok(())
        })?;
        if let Some(byte) = self.damage_config.and_then(|at| config.get_mut(at)) {
            *byte ^= 0xff;
        }
        if config.is_empty() { Err(format!("the recording has none of {wanted}")) } else { Ok(config) }
    }
}
