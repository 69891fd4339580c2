// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which item follows which in the main stream.

use super::token::{Header, Kept, Token};
use super::{Footers, MainOptions};
use crate::cursor::Cursor;
use crate::qemu::PciConfigState;
use crate::qemu::command::{self, COMMAND};
use crate::qemu::configuration::{self, CONFIGURATION, SUBSECTION};
use crate::qemu::engine::{Grammar, Stop, some_bytes};
use crate::qemu::error::Reason;
use crate::qemu::event::Progress;
use crate::qemu::item::Item;
use crate::qemu::limits::Limits;
use crate::qemu::ram::{Layout, RAM_VERSION, Ram};
use crate::qemu::search::{self, EOF, Surroundings, VMDESC};
use crate::qemu::section::{Content, Extent, FOOTER, SectionKind, Started, Table};
use crate::qemu::text;
use crate::qemu::vfio::{self, VFIO_END_OF_STATE, VFIO_VERSION, Vfio};
use crate::qemu::vmdesc::Vmdesc;
use crate::qemu::vmstate::Walk;

#[derive(Clone, Debug)]
pub(super) struct Main {
    limits: Limits,
    vmdesc: Vmdesc,
    footers: Footers,
    vmdesc_follows: bool,
    state: State,
    table: Table,
    ram: Ram,
    vfio: Vfio,
    walk: Walk,
    /// The section that is open, or was last.
    section: Open,
    /// How far the end of the payload has been searched.
    searched_bytes: usize,
    /// Which description the next FULL section is likely to have.
    device_next: usize,
    package_end: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    id: u32,
    /// Its length, from the vmdesc.
    described_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    FileHeader,
    Configuration,
    ConfigurationSubsection,
    Item,
    Ram,
    Vfio,
    Walk,
    Search,
    SectionEnd,
    AfterEnd,
    Vmdesc(Progress),
    End,
}

impl Main {
    pub(super) fn new(options: MainOptions) -> Self {
        let layout = Layout {
            page_bytes: 1u64.checked_shl(options.page_bits.clamp(10, 16)).unwrap_or(4096),
            ignore_shared: false,
            mapped_ram: false,
            blocks_with_page_size: options.blocks_with_page_size,
            blocks_max: options.limits.ram_blocks,
            file_offset: options.file_offset,
        };
        Self {
            limits: options.limits,
            vmdesc: options.vmdesc.unwrap_or_default(),
            footers: options.footers,
            vmdesc_follows: options.vmdesc_follows,
            state: State::FileHeader,
            table: Table::default(),
            ram: Ram::new(layout),
            vfio: Vfio::new(),
            walk: Walk::new(),
            section: Open::default(),
            searched_bytes: 0,
            device_next: 0,
            package_end: None,
        }
    }

    /// Reads one item from a cursor that ends where the package does, or changes the state without reading any.
    fn step(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Token>, Stop> {
        let token = match self.state {
            State::FileHeader => {
                configuration::read_file_header(cursor)?;
                self.state = State::Configuration;
                Token::FileHeader
            }
            State::Configuration | State::ConfigurationSubsection => return self.configuration(cursor),
            State::Item => self.item_at(cursor)?,
            State::Ram => {
                let token = self.ram.next(cursor)?;
                if self.ram.is_done() {
                    self.state = State::SectionEnd;
                }
                Token::Ram(token)
            }
            State::Vfio => Token::Vfio(self.vfio(cursor)?),
            State::Walk => {
                let token = self.walk.next(&self.vmdesc, cursor)?;
                if token.is_none() {
                    self.state = State::SectionEnd;
                }
                return Ok(token.map(Token::VmState));
            }
            State::Search => {
                let length = self.search(cursor)?;
                self.state = State::SectionEnd;
                if length == 0 {
                    return Ok(None);
                }
                cursor.take(length, "payload of a section")?;
                Token::Payload
            }
            State::SectionEnd => return self.section_end(cursor),
            State::AfterEnd => self.vmdesc(cursor)?,
            State::Vmdesc(mut progress) => {
                let count = some_bytes(cursor, progress.left(), "vmdesc")?;
                let before = progress.advance(count);
                self.state = if progress.left() == 0 { State::End } else { State::Vmdesc(progress) };
                Token::VmdescBytes(before)
            }
            State::End => {
                peek(cursor, "nothing")?;
                return Err(Reason::Trailing.into());
            }
        };
        Ok(Some(token))
    }

    /// Like a QEMU target, looks one byte ahead: subsections follow the machine type without a count.
    fn configuration(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Token>, Stop> {
        match (self.state, peek(cursor, "configuration or section")?) {
            (State::Configuration, CONFIGURATION) => {
                let machine = configuration::read_configuration(cursor)?;
                self.state = State::ConfigurationSubsection;
                Ok(Some(Token::Configuration(machine)))
            }
            (State::ConfigurationSubsection, SUBSECTION) => {
                let token = configuration::read_subsection(cursor)?;
                self.configure(&token);
                Ok(Some(Token::ConfigurationSubsection(token)))
            }
            _ => {
                self.state = State::Item;
                Ok(None)
            }
        }
    }

    fn configure(&mut self, token: &configuration::Token) {
        match token {
            configuration::Token::PageBits(bits) => {
                self.ram.layout.page_bytes = 1u64.checked_shl(*bits).unwrap_or(4096);
            }
            configuration::Token::Capabilities { ignore_shared, mapped_ram, .. } => {
                self.ram.layout.ignore_shared = *ignore_shared;
                self.ram.layout.mapped_ram = *mapped_ram;
            }
            configuration::Token::Uuid(_) => {}
        }
    }

    /// Reads what starts between sections.
    fn item_at(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        let raw = peek(cursor, "type of the next item")?;
        match raw {
            EOF => {
                cursor.u8("end of stream")?;
                match self.package_end {
                    None => self.state = State::AfterEnd,
                    Some(end) if end == cursor.offset() => {}
                    Some(_) => return Err(Reason::Trailing.into()),
                }
                Ok(Token::EndOfStream)
            }
            COMMAND => {
                let token = command::read(cursor, &self.limits)?;
                if let command::Token::Packaged { length } = token {
                    self.open_package(cursor.offset(), length)?;
                }
                Ok(Token::Command(token))
            }
            _ => match SectionKind::from_raw(raw) {
                Some(kind) if kind.is_named() => self.named_section(kind, cursor),
                Some(kind) => self.continued_section(kind, cursor),
                None => Err(Reason::Unknown { what: "type of an item", value: raw.into() }.into()),
            },
        }
    }

    fn open_package(&mut self, start: u64, length: u32) -> Result<(), Reason> {
        if self.package_end.is_some() {
            let what = "length of a package in a package";
            return Err(Reason::Value { what, value: length.into(), expected: "absent" });
        }
        if length > 0 {
            self.package_end = Some(start.saturating_add(length.into()));
        }
        Ok(())
    }

    fn named_section(&mut self, kind: SectionKind, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        cursor.u8("type of a section")?;
        let id = cursor.u32_be("section id")?;
        let (name, idstr) = text::named(cursor, "idstr")?;
        let instance_id = cursor.u32_be("instance id")?;
        let version_id = cursor.u32_be("version id")?;
        let content = Content::of(name);
        check_version(content, version_id)?;
        if self.table.check(id, name, instance_id)? && kind == SectionKind::Start {
            let started = Started { id, idstr: name.into(), instance_id, version_id };
            self.table.insert(started, self.limits.sections)?;
        }
        let device = if kind == SectionKind::Full { self.describe(name, instance_id) } else { None };
        let extent = self.start_payload(id, content, device);
        Ok(Token::Section(Header { kind, id, idstr: Some(idstr), instance_id, version_id, extent }))
    }

    fn continued_section(&mut self, kind: SectionKind, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        cursor.u8("type of a section")?;
        let id = cursor.u32_be("section id")?;
        let started = self.table.get(id).ok_or(Reason::NotStarted { id })?;
        let (instance_id, version_id) = (started.instance_id, started.version_id);
        let extent = self.start_payload(id, Content::of(&started.idstr), None);
        Ok(Token::Section(Header { kind, id, idstr: None, instance_id, version_id, extent }))
    }

    /// The description of the next FULL section.
    fn describe(&mut self, name: &str, instance_id: u32) -> Option<usize> {
        let device = self.vmdesc.find(name, instance_id, self.device_next)?;
        self.device_next = device.saturating_add(1);
        Some(device)
    }

    fn start_payload(&mut self, id: u32, content: Content, device: Option<usize>) -> Extent {
        self.section = Open { id, described_bytes: device.map(|device| self.vmdesc.payload_bytes(device)) };
        self.searched_bytes = 0;
        let (state, extent) = match (content, device.and_then(|device| self.vmdesc.structure(device))) {
            (Content::Ram, _) => {
                self.ram.start();
                (State::Ram, Extent::Format)
            }
            (Content::Vfio, _) => {
                self.vfio = Vfio::new();
                (State::Vfio, Extent::Format)
            }
            (Content::Other, Some(structure)) => {
                self.walk.start(structure);
                (State::Walk, Extent::Vmdesc)
            }
            (Content::Other, None) => (State::Search, Extent::FooterSearch),
        };
        self.state = state;
        extent
    }

    fn footer(&self) -> [u8; 5] {
        let [a, b, c, d] = self.section.id.to_be_bytes();
        [FOOTER, a, b, c, d]
    }

    fn search(&mut self, cursor: &Cursor<'_>) -> Result<usize, Stop> {
        if self.footers == Footers::Absent {
            return Err(Reason::NoExtent { id: self.section.id }.into());
        }
        let footer = self.footer();
        let (from, limit) = (&mut self.searched_bytes, self.limits.section_bytes);
        let around =
            Surroundings { table: &self.table, package_end: self.package_end, vmdesc_follows: self.vmdesc_follows };
        search::payload_length(cursor, from, &footer, limit, &around, |_| true)
    }

    fn vfio(&mut self, cursor: &mut Cursor<'_>) -> Result<vfio::Token, Stop> {
        // Described is the payload from the first flag to the last: what is not config state is these two.
        let described = self.section.described_bytes.and_then(|bytes| bytes.checked_sub(16)).filter(|bytes| *bytes > 0);
        let described = described.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let limit = self.limits.config_bytes;
        if let Some(length) = described.filter(|length| *length > limit) {
            let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
            return Err(Reason::Limit { what: "bytes of config state", value: wide(length), limit: wide(limit) }.into());
        }
        let mut end = VFIO_END_OF_STATE.to_be_bytes().to_vec();
        let has_footers = self.footers != Footers::Absent;
        if has_footers {
            end.extend_from_slice(&self.footer());
        }
        let (from, table) = (&mut self.searched_bytes, &self.table);
        let around = Surroundings { table, package_end: self.package_end, vmdesc_follows: self.vmdesc_follows };
        let token = self.vfio.next(cursor, |cursor| match described {
            Some(length) => Ok(length),
            None => search::payload_length(cursor, from, &end, limit, &around, |config| {
                has_footers || PciConfigState::parse(config).is_some()
            }),
        })?;
        if self.vfio.is_done() {
            self.state = State::SectionEnd;
        }
        Ok(token)
    }

    /// Reads the footer, if there is one, and else goes on.
    fn section_end(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Token>, Stop> {
        if self.footers == Footers::Detect {
            let is_present = self.package_end != Some(cursor.offset()) && peek(cursor, "footer")? == FOOTER;
            self.footers = if is_present { Footers::Present } else { Footers::Absent };
        }
        if self.footers == Footers::Absent {
            self.state = State::Item;
            return Ok(None);
        }
        let id = self.section.id;
        let found = cursor.take_array("footer")?;
        if found != self.footer() {
            return Err(Reason::Footer { id, found }.into());
        }
        self.state = State::Item;
        Ok(Some(Token::Footer { id }))
    }

    fn vmdesc(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        if peek(cursor, "vmdesc")? != VMDESC {
            return Err(Reason::Trailing.into());
        }
        cursor.u8("vmdesc")?;
        let length = cursor.u32_be("length of the vmdesc")?;
        self.state = if length == 0 { State::End } else { State::Vmdesc(Progress::new(length.into())) };
        Ok(Token::Vmdesc { length })
    }
}

fn peek(cursor: &Cursor<'_>, what: &'static str) -> Result<u8, Stop> {
    cursor.peek().first().copied().ok_or(Stop::More { what, least: 1 })
}

/// In a package of which all bytes are there, no more will come.
fn cut(stop: Stop) -> Stop {
    match stop {
        Stop::More { what, .. } => Stop::Refused(Reason::PackageCut { what }),
        refused @ Stop::Refused(_) => refused,
    }
}

fn check_version(content: Content, found: u32) -> Result<(), Reason> {
    match content {
        Content::Ram if found != RAM_VERSION => {
            Err(Reason::Version { what: "version of a RAM section", found, known: RAM_VERSION })
        }
        Content::Vfio if found != VFIO_VERSION => {
            Err(Reason::Version { what: "version of a VFIO section", found, known: VFIO_VERSION })
        }
        _ => Ok(()),
    }
}

impl Grammar for Main {
    type Token = Token;
    type Item<'a> = Item<'a>;

    fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        loop {
            if self.package_end == Some(cursor.offset()) && matches!(self.state, State::Item) {
                self.package_end = None;
            }
            let left = self.package_end.map(|end| end.saturating_sub(cursor.offset()));
            let left = left.and_then(|left| usize::try_from(left).ok()).filter(|left| *left <= cursor.left());
            let token = match left {
                None => self.step(cursor)?,
                // Inside a package nothing sees what follows it.
                Some(left) => {
                    let mut inside = cursor.clone().sub(left, "package")?;
                    let token = self.step(&mut inside).map_err(cut)?;
                    cursor.take(inside.position(), "package")?;
                    token
                }
            };
            if let Some(token) = token {
                return Ok(token);
            }
        }
    }

    fn item<'a>(&'a self, token: Token, raw: &'a [u8]) -> Item<'a> {
        token.item(raw, &Kept { table: &self.table, ram: &self.ram, walk: &self.walk, vmdesc: &self.vmdesc })
    }

    fn may_end(&self) -> bool {
        matches!(self.state, State::AfterEnd | State::End)
    }

    fn held_bytes(&self) -> usize {
        self.table.held_bytes().saturating_add(self.ram.held_bytes()).saturating_add(self.walk.held_bytes())
    }
}
