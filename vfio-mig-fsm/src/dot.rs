// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine as a graph for people.

use core::fmt;

use crate::{Capabilities, SessionEffect, State, session, successors};

/// Prints the arcs of a capability set in the language of Graphviz.
///
/// The saving group is framed; the colour of an arc says what it does to the data fd. Refusals and
/// combined requests are not drawn: they follow from the arcs.
///
/// ```
/// use vfio_mig_fsm::{Capabilities, Dot};
///
/// let graph = Dot(Capabilities::StopCopy).to_string();
/// assert!(graph.contains("STOP_COPY -> STOP"));
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a wrapper around its one argument")]
pub struct Dot(pub Capabilities);

impl fmt::Display for Dot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caps = self.0;
        writeln!(formatter, "digraph vfio_migration_{} {{", caps.flags())?;
        writeln!(formatter, "    rankdir=LR;")?;
        writeln!(formatter, "    node [shape=box, style=rounded, fontname=\"monospace\"];")?;
        writeln!(formatter, "    edge [fontname=\"sans-serif\", fontsize=10];")?;
        writeln!(formatter, "    subgraph cluster_saving {{")?;
        writeln!(formatter, "        label=\"one saving data fd\";")?;
        writeln!(formatter, "        fontname=\"sans-serif\";")?;
        writeln!(formatter, "        style=dashed;")?;
        for state in caps.states().iter().filter(|state| state.is_saving()) {
            writeln!(formatter, "        {state};")?;
        }
        writeln!(formatter, "    }}")?;
        for from in caps.states() {
            for to in successors(caps, from) {
                writeln!(formatter, "    {from} -> {to}{};", Arc { from, to })?;
            }
        }
        writeln!(formatter, "}}")
    }
}

/// The attributes of one arc.
struct Arc {
    from: State,
    to: State,
}

impl fmt::Display for Arc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match session(self.from, self.to) {
            SessionEffect::None => "",
            SessionEffect::Keeps => " [color=\"#1f6feb\", label=\"keeps fd\"]",
            SessionEffect::OpensSaving | SessionEffect::OpensResuming => " [color=\"#1a7f37\", label=\"opens fd\"]",
            SessionEffect::Ends => " [color=\"#cf222e\", label=\"ends fd\"]",
        })
    }
}
