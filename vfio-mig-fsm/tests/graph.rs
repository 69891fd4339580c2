// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The graphs in `docs/` show the state machine as it is now.

use std::{fs, path::Path};

use vfio_mig_fsm::{Capabilities, Dot, successors};

#[test]
fn committed_graphs_are_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for caps in Capabilities::ALL {
        let name = format!("fsm-{}", caps.flags());
        let committed = fs::read_to_string(docs.join(&name).with_extension("dot")).unwrap();
        assert_eq!(committed, Dot(caps).to_string(), "regenerate docs/{name}.dot and its .svg");
        // The drawing is Graphviz's; the titles of its edges name the arcs.
        let drawing = fs::read_to_string(docs.join(&name).with_extension("svg")).unwrap();
        let arcs = caps.states().iter().flat_map(|from| {
            successors(caps, from).iter().map(move |to| format!("<title>{from}&#45;&gt;{to}</title>"))
        });
        let mut edges = 0;
        for title in arcs {
            assert!(drawing.contains(&title), "redraw docs/{name}.svg: {title} is missing");
            edges += 1;
        }
        assert_eq!(drawing.matches("class=\"edge\"").count(), edges, "redraw docs/{name}.svg");
    }
}
