// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From JSON to a [`Vmdesc`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Device, Field, Struct, Vmdesc, VmdescLimits};
use crate::qemu::json::{JsonError, JsonReason, Reader};

/// Length of the header of a subsection but for its name: `05`, u8 length, u32 version.
const SUBSECTION_HEADER_BYTES: u64 = 6;

pub(super) fn parse(json: &[u8], limits: &VmdescLimits) -> Result<Vmdesc, JsonError> {
    let mut reader = Reader::new(json, limits.depth);
    if json.len() > limits.json_bytes {
        let limit = limits.json_bytes;
        return Err(reader.error(JsonReason::Limit { what: "bytes of a vmdesc", limit }));
    }
    let mut builder = Builder { vmdesc: Vmdesc::default(), nodes: 0, nodes_max: limits.nodes };
    reader.object(|reader, key| match key {
        "page_size" => {
            builder.vmdesc.page_bytes = Some(reader.unsigned("page_size")?);
            Ok(())
        }
        "devices" => reader.array(|reader| builder.device(reader)),
        _ => reader.skip(),
    })?;
    reader.finish()?;
    Ok(builder.vmdesc)
}

struct Builder {
    vmdesc: Vmdesc,
    nodes: usize,
    nodes_max: usize,
}

/// What has been read of a struct.
#[derive(Default)]
struct Draft {
    name: Box<str>,
    version: u32,
    fields: Vec<Field>,
    subsections: Vec<Struct>,
}

impl Builder {
    /// Counts a node before it is kept.
    fn count(&mut self, reader: &Reader<'_>) -> Result<(), JsonError> {
        if self.nodes >= self.nodes_max {
            let limit = self.nodes_max;
            return Err(reader.error(JsonReason::Limit { what: "nodes of a vmdesc", limit }));
        }
        self.nodes = self.nodes.saturating_add(1);
        Ok(())
    }

    fn device(&mut self, reader: &mut Reader<'_>) -> Result<(), JsonError> {
        self.count(reader)?;
        let (mut name, mut instance_id) = (Box::default(), 0);
        let mut draft = Draft::default();
        reader.object(|reader, key| {
            match key {
                "name" => name = printable(reader)?,
                "instance_id" => instance_id = narrow(reader, "instance_id")?,
                _ => self.member(reader, key, &mut draft)?,
            }
            Ok(())
        })?;
        let structure = self.finish(reader, draft)?;
        let structure = self.push_structs(reader, [structure])?.start;
        self.vmdesc.devices.push(Device { name, instance_id, structure });
        Ok(())
    }

    /// Reads a member that devices, structs and subsections have in common.
    fn member(&mut self, reader: &mut Reader<'_>, key: &str, draft: &mut Draft) -> Result<(), JsonError> {
        match key {
            "vmsd_name" => draft.name = printable(reader)?,
            "version" => draft.version = narrow(reader, "version")?,
            "fields" => reader.array(|reader| self.field(reader, &mut draft.fields))?,
            "subsections" => reader.array(|reader| {
                let structure = self.structure(reader)?;
                draft.subsections.push(structure);
                Ok(())
            })?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn structure(&mut self, reader: &mut Reader<'_>) -> Result<Struct, JsonError> {
        let mut draft = Draft::default();
        reader.object(|reader, key| self.member(reader, key, &mut draft))?;
        self.finish(reader, draft)
    }

    fn field(&mut self, reader: &mut Reader<'_>, fields: &mut Vec<Field>) -> Result<(), JsonError> {
        self.count(reader)?;
        let empty = Box::default();
        let mut field =
            Field { name: empty, type_name: Box::default(), bytes: 0, count: 1, index: None, structure: None };
        let mut structure = None;
        reader.object(|reader, key| {
            match key {
                "name" => field.name = printable(reader)?,
                "type" => field.type_name = printable(reader)?,
                "size" => field.bytes = reader.unsigned("size")?,
                "array_len" => field.count = reader.unsigned("array_len")?,
                "index" => field.index = Some(reader.unsigned("index")?),
                "struct" => structure = Some(self.structure(reader)?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        // A struct whose parts do not add up to its size is shown as one field without parts.
        if let Some(structure) = structure.filter(|structure| structure.bytes == field.bytes) {
            field.structure = Some(self.push_structs(reader, [structure])?.start);
        }
        if field.bytes > 0 && field.count > 0 {
            fields.push(field);
        }
        Ok(())
    }

    /// Adds up the lengths and gives the fields and subsections their place.
    fn finish(&mut self, reader: &Reader<'_>, draft: Draft) -> Result<Struct, JsonError> {
        let fields = draft.fields.iter().map(|field| field.bytes.checked_mul(field.count));
        let subsections = draft.subsections.iter().map(|subsection| {
            let name_bytes = u64::try_from(subsection.name.len()).ok()?;
            subsection.bytes.checked_add(name_bytes)?.checked_add(SUBSECTION_HEADER_BYTES)
        });
        let bytes = fields.chain(subsections).try_fold(0u64, |sum, bytes| sum.checked_add(bytes?));
        let bytes = bytes.ok_or_else(|| reader.error(JsonReason::Range { what: "size" }))?;
        let start = self.vmdesc.fields.len();
        self.vmdesc.fields.extend(draft.fields);
        let fields = start..self.vmdesc.fields.len();
        let subsections = self.push_structs(reader, draft.subsections)?;
        Ok(Struct { name: draft.name, version: draft.version, fields, subsections, bytes })
    }

    fn push_structs(
        &mut self,
        reader: &Reader<'_>,
        structs: impl IntoIterator<Item = Struct>,
    ) -> Result<Range<usize>, JsonError> {
        let start = self.vmdesc.structs.len();
        for structure in structs {
            self.count(reader)?;
            self.vmdesc.structs.push(structure);
        }
        Ok(start..self.vmdesc.structs.len())
    }
}

/// A name that can stand in a log line.
fn printable(reader: &mut Reader<'_>) -> Result<Box<str>, JsonError> {
    let name = reader.string()?;
    if name.contains(char::is_control) {
        return Err(reader.error(JsonReason::Expected { wanted: "a name without control characters" }));
    }
    Ok(name.into_boxed_str())
}

fn narrow(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, JsonError> {
    let value = reader.unsigned(what)?;
    u32::try_from(value).map_err(|_| reader.error(JsonReason::Range { what }))
}
