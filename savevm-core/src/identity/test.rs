// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The grammar by examples and by properties, and every reason by itself and with others.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const MTTY: &str = "mig1:mdev-mtty/mtty/mtty-2/mtty@1.0;!ports=2";
const HISI: &str = "mig1:pci-19e5/hisi_acc_vfio_pci/a256/hisi_acc@2.0(1.0..2.65535);node=1;!que_iso_cfg=1;!queues=64";
const MLX5: &str = "mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.1(2.0..2.1);needs=chunk,tracking;offers=reinit";

fn parse(text: &str) -> Identity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn codes(source: &str, target: &str) -> Vec<&'static str> {
    compatible_by_instance(&parse(source), &parse(target)).reasons().iter().map(Reason::code).collect()
}

#[test]
fn what_is_written_is_read() {
    for text in [MTTY, HISI, MLX5] {
        assert_eq!(parse(text).to_string(), text);
    }
    let hisi = parse(HISI);
    assert_eq!(*hisi.namespace(), Namespace::Pci(0x19e5));
    assert_eq!((hisi.driver(), hisi.kind(), hisi.format().name()), ("hisi_acc_vfio_pci", "a256", "hisi_acc"));
    assert_eq!(hisi.format().version(), Version::new(2, 0));
    assert_eq!(hisi.format().reads(), (Version::new(1, 0), Version::new(2, u16::MAX)));
    assert!(hisi.get("queues").is_some_and(|queues| queues.required && queues.value == "64"));
    assert!(hisi.get("node").is_some_and(|node| !node.required && node.value == "1"));
    assert_eq!(*parse(MTTY).namespace(), Namespace::Mdev("mtty".to_string()));
    let mlx5 = parse(MLX5);
    assert_eq!(mlx5.needs().chain(mlx5.offers()).collect::<Vec<_>>(), ["chunk", "tracking", "reinit"]);
}

#[test]
fn order_and_needless_parentheses_do_not_count() {
    let loose = "mig1:pci-0001/d/t/f@1.0(1.0..1.0);z=1;offers=b;needs=d,c;a=2";
    assert_eq!(parse(loose).to_string(), "mig1:pci-0001/d/t/f@1.0;needs=c,d;offers=b;a=2;z=1");
    assert_eq!(parse(loose), parse(&parse(loose).to_string()));
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (text, expected) in [
        ("", "column 1: expected 'mig1:', found the end"),
        ("mdev/mtty/mtty-2", "column 1: expected 'mig1:', found 'm'"),
        ("mig12:x", "column 1: this program knows identities that begin with 'mig1:'; a newer one may know this"),
        ("mig1:usb-1/d/t/f@1.0", "column 6: expected 'pci-' and a vendor id, or 'mdev-' and a driver, found 'u'"),
        ("mig1:pci-15B3/d", "column 12: expected four small hexadecimal digits, the PCI vendor id, found 'B'"),
        ("mig1:pci-15b/d", "column 13: expected four small hexadecimal digits, the PCI vendor id, found '/'"),
        ("mig1:pci-15b34/d", "column 14: expected '/' and the driver, found '4'"),
        ("mig1:mdev-/d", "column 11: expected the driver of the mediated device's parent, found '/'"),
        ("mig1:pci-15b3//t", "column 15: expected the driver, found '/'"),
        ("mig1:pci-15b3/d d/t", "column 16: expected more of the driver, or '/' and the type, found ' '"),
        (
            "mig1:pci-15b3/d/t\u{e9}/f@1.0",
            "column 18: expected more of the type, or '/' and the stream format, found 'é'",
        ),
        ("mig1:pci-15b3/d/t/f", "column 20: expected more of the stream format, or '@' and its version, found the end"),
        ("mig1:pci-15b3/d/t/f@1", "column 22: expected '.' and the second number of the version, found the end"),
        ("mig1:pci-15b3/d/t/f@01.0", "column 21: expected a number without leading zeros, found '0'"),
        ("mig1:pci-15b3/d/t/f@1.65536", "column 23: a version's numbers are at most 65535"),
        ("mig1:pci-15b3/d/t/f@1.-1", "column 23: expected a number of the version, in digits, found '-'"),
        (
            "mig1:pci-15b3/d/t/f@1.0(1.1..2.0)",
            "column 24: version 1.0, which is written, is not among those that are read, 1.1 to 2.0",
        ),
        (
            "mig1:pci-15b3/d/t/f@1.0(2.0..0.1)",
            "column 24: version 1.0, which is written, is not among those that are read, 2.0 to 0.1",
        ),
        ("mig1:pci-15b3/d/t/f@1.0(1.0.2.0)", "column 28: expected '..' and the newest version that is read, found '.'"),
        ("mig1:pci-15b3/d/t/f@1.0 ", "column 24: expected ';' and an attribute, or the end, found ' '"),
        ("mig1:pci-15b3/d/t/f@1.0;", "column 25: expected a key, which begins with a small letter, found the end"),
        ("mig1:pci-15b3/d/t/f@1.0;Q=1", "column 25: expected a key, which begins with a small letter, found 'Q'"),
        ("mig1:pci-15b3/d/t/f@1.0;q", "column 26: expected more of the key, or '=' and its value, found the end"),
        ("mig1:pci-15b3/d/t/f@1.0;q=", "column 27: expected a value, found the end"),
        ("mig1:pci-15b3/d/t/f@1.0;q=1;!q=1", "column 30: the key was there before; state it once"),
        ("mig1:pci-15b3/d/t/f@1.0;needs=a,a", "column 33: the feature was there before; state it once"),
        ("mig1:pci-15b3/d/t/f@1.0;needs=a;needs=b", "column 33: the list of features was there before; state it once"),
        ("mig1:pci-15b3/d/t/f@1.0;!needs=a", "column 25: expected 'needs' and 'offers' without '!', found '!'"),
        ("mig1:pci-15b3/d/t/f@1.0;needs=", "column 31: expected a feature, found the end"),
    ] {
        let error = text.parse::<Identity>().expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn every_limit_holds_from_both_sides() {
    let with = |driver: usize, key: usize, value: usize, attributes: usize, features: usize| {
        let list = |what: &str, count: usize, separator: &str| {
            (0..count).map(|index| format!("{what}{index}")).collect::<Vec<_>>().join(separator)
        };
        let mut text =
            format!("mig1:pci-15b3/{}/t/f@1.0;{}={}", "d".repeat(driver), "k".repeat(key), "v".repeat(value));
        for attribute in 1..attributes {
            text.push_str(&format!(";a{attribute}=1"));
        }
        if features > 0 {
            text.push_str(&format!(";needs={}", list("f", features, ",")));
        }
        text
    };
    assert_eq!(parse(&with(64, 32, 128, 32, 32)).attributes().count(), 32);
    for (text, what) in [
        (with(65, 1, 1, 1, 0), "the driver has at most 64"),
        (with(1, 33, 1, 1, 0), "a key has at most 32"),
        (with(1, 1, 129, 1, 0), "a value has at most 128"),
        (with(1, 1, 1, 33, 0), "there are at most 32 attributes"),
        (with(1, 1, 1, 1, 33), "there are at most 32 features"),
    ] {
        let error = text.parse::<Identity>().unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
    // 1024 bytes in all: attributes of 3 + 2 + 113 bytes behind a head of 25.
    let long = |last: usize| {
        let full = (0..8).map(|index| format!(";a{index}={}", "v".repeat(113))).collect::<String>();
        format!("mig1:pci-15b3/dd/tt/f@1.0{full};b={}", "v".repeat(last))
    };
    assert_eq!(long(60).len(), 1024);
    assert_eq!(parse(&long(60)).to_string().len(), IDENTITY_BYTES_MAX);
    assert!(long(61).parse::<Identity>().unwrap_err().to_string().contains("an identity has at most 1024"));
    let grown = parse(&long(57)).inform("c", "").map(|_| ()).unwrap_err();
    assert!(matches!(grown.problem, Problem::Expected { what: "a value", .. }), "{grown}");
    let grown = parse(&long(57)).inform("c", "1").map(|_| ()).unwrap_err();
    assert!(matches!(grown.problem, Problem::TooLong { limit: IDENTITY_BYTES_MAX, .. }), "{grown}");
}

#[test]
fn parts_are_checked_when_an_identity_is_made() {
    let format = || Format::new("f", Version::new(1, 0)).unwrap();
    let made = |namespace, driver, kind| Identity::new(namespace, driver, kind, format()).map(|_| ());
    assert_eq!(made(Namespace::Pci(1), "d", "t"), Ok(()));
    let parent = made(Namespace::Mdev("a/b".to_string()), "d", "t").unwrap_err();
    assert_eq!(parent.to_string(), "column 2: expected a letter, a digit, '_', '-', '.' or '+', found '/'");
    assert!(made(Namespace::Pci(1), "", "t").is_err() && made(Namespace::Pci(1), "d", "t;").is_err());
    assert!(Format::new("a@b", Version::new(1, 0)).is_err());
    let identity = || Identity::new(Namespace::Pci(1), "d", "t", format()).unwrap();
    for reserved in ["needs", "offers", "Needs", ""] {
        assert!(identity().require(reserved, "x").is_err(), "{reserved}");
    }
    assert!(identity().inform("key", "a;b").is_err() && identity().need("a,b").is_err());
    assert!(identity().offer("a").unwrap().offer("a").is_err());
}

#[test]
fn each_difference_is_a_reason_of_its_own() {
    for (source, target, expected) in [
        (MTTY, MTTY, [].as_slice()),
        ("mig1:pci-15b3/d/t/f@1.0", "mig1:pci-19e5/d/t/f@1.0", &["namespace"]),
        // The same names, of two vendors.
        ("mig1:mdev-a/d/t/f@1.0", "mig1:mdev-b/d/t/f@1.0", &["namespace"]),
        ("mig1:pci-15b3/d/t/f@1.0", "mig1:pci-15b3/e/t/f@1.0", &["driver"]),
        ("mig1:pci-15b3/d/t/f@1.0", "mig1:pci-15b3/d/u/f@1.0", &["type"]),
        ("mig1:pci-15b3/d/t/f@1.0", "mig1:pci-15b3/d/t/g@1.0", &["format-name"]),
        // Versions: both ends belong to the range, the second number counts.
        ("mig1:pci-15b3/d/t/f@1.2", "mig1:pci-15b3/d/t/f@3.0(1.2..3.0)", &[]),
        ("mig1:pci-15b3/d/t/f@3.0", "mig1:pci-15b3/d/t/f@1.2(1.2..3.0)", &[]),
        ("mig1:pci-15b3/d/t/f@1.1", "mig1:pci-15b3/d/t/f@3.0(1.2..3.0)", &["format-version"]),
        ("mig1:pci-15b3/d/t/f@3.1(3.0..3.1)", "mig1:pci-15b3/d/t/f@3.0(1.2..3.0)", &["format-version"]),
        // What the source reads does not matter.
        ("mig1:pci-15b3/d/t/f@2.0(1.0..2.0)", "mig1:pci-15b3/d/t/f@1.0", &["format-version"]),
        // Features.
        ("mig1:pci-15b3/d/t/f@1.0;needs=a,b,c", "mig1:pci-15b3/d/t/f@1.0;needs=b;offers=a", &["feature-missing"]),
        ("mig1:pci-15b3/d/t/f@1.0", "mig1:pci-15b3/d/t/f@1.0;needs=b", &[]),
        // Attributes.
        ("mig1:pci-15b3/d/t/f@1.0;!q=1", "mig1:pci-15b3/d/t/f@1.0;q=2", &["attribute-differs"]),
        ("mig1:pci-15b3/d/t/f@1.0;q=1", "mig1:pci-15b3/d/t/f@1.0;!q=2", &["attribute-differs"]),
        ("mig1:pci-15b3/d/t/f@1.0;q=1", "mig1:pci-15b3/d/t/f@1.0;q=2", &[]),
        ("mig1:pci-15b3/d/t/f@1.0;!q=1", "mig1:pci-15b3/d/t/f@1.0;q=1", &[]),
        ("mig1:pci-15b3/d/t/f@1.0;!q=1", "mig1:pci-15b3/d/t/f@1.0", &["attribute-unknown"]),
        ("mig1:pci-15b3/d/t/f@1.0", "mig1:pci-15b3/d/t/f@1.0;!q=1", &["attribute-unknown"]),
        ("mig1:pci-15b3/d/t/f@1.0;q=1", "mig1:pci-15b3/d/t/f@1.0;r=1", &[]),
    ] {
        assert_eq!(codes(source, target), expected, "{source} to {target}");
    }
}

#[test]
fn all_reasons_are_listed_with_what_to_change() {
    let source = "mig1:pci-15b3/d/t/f@2.0;needs=x,y;!a=1;!b=1";
    let target = "mig1:pci-19e5/e/u/f@1.0;!a=2;!c=3";
    let verdict = compatible_by_instance(&parse(source), &parse(target));
    let all: Vec<String> = verdict.reasons().iter().map(Reason::to_string).collect();
    assert_eq!(
        all,
        [
            "the source's device is of pci-15b3, the target's of pci-19e5: choose a target device of the same vendor",
            "the source's driver is d, the target's e: bind the target's device to d",
            "the source's device is of type t, the target's of type u: choose a target device of type t",
            "the source writes f 2.0, the target reads 1.0 to 1.0: update the target's driver, or choose a target whose \
             driver is as new as the source's",
            "the source's state needs the feature x, which the target does not offer: enable it on the target, or disable \
             it on the source",
            "the source's state needs the feature y, which the target does not offer: enable it on the target, or disable \
             it on the source",
            "a is 1 on the source and 2 on the target: configure the target's device with a=1",
            "the source requires b=1, and the target does not state its b: choose a target whose software knows b",
            "the target requires c=3, and the source does not state its c: update the source's software to one that \
             knows c",
        ]
    );
    assert_eq!(verdict.to_string(), all.join("; "));
}

#[test]
fn a_type_is_asked_without_its_attributes() {
    let (source, kind) = (parse(HISI), parse("mig1:pci-19e5/hisi_acc_vfio_pci/a256/hisi_acc@2.0;!queues=64"));
    assert_eq!(codes(HISI, &kind.to_string()), ["attribute-unknown"]);
    let verdict = compatible_by_type(&source, &kind);
    assert!(verdict.is_compatible(), "{verdict}");
    assert_eq!(verdict.undecided().iter().map(Attribute::to_string).collect::<Vec<_>>(), ["!que_iso_cfg=1"]);
    let other = parse("mig1:pci-19e5/hisi_acc_vfio_pci/a259/hisi_acc@1.0;!queues=64");
    let reasons: Vec<_> = compatible_by_type(&source, &other).reasons().iter().map(Reason::code).collect();
    assert_eq!(reasons, ["type", "format-version"]);
}

#[test]
fn what_is_no_identity_must_be_equal() {
    let asked = |source, target| compatible_texts(source, target, Question::Instance);
    assert!(asked("sim/x", "sim/x").is_compatible());
    assert!(asked("mig2:new", "mig2:new").is_compatible());
    assert!(asked(MTTY, MTTY).is_compatible());
    let both = asked("sim/x", "sim/y").to_string();
    assert_eq!(
        both,
        "it is 'sim/x' on the source and 'sim/y' on the target: choose a target device with the source's identity"
    );
    let one = asked("mig2:new", MTTY).to_string();
    assert!(one.contains("the source's is no migration identity (column 1: this program knows"), "{one}");
    let other = asked(MTTY, "").to_string();
    assert!(other.contains("the target's is no migration identity (column 1: expected 'mig1:'"), "{other}");
    let kind = "mig1:mdev-mtty/mtty/mtty-2/mtty@1.0";
    assert!(compatible_texts(MTTY, kind, Question::Type).is_compatible());
    assert!(!compatible_texts(MTTY, kind, Question::Instance).is_compatible());
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.+-]{1,12}"
}

fn version() -> impl Strategy<Value = Version> {
    (any::<u16>(), any::<u16>()).prop_map(|(major, minor)| Version::new(major, minor))
}

prop_compose! {
    fn identities()(
        namespace in prop_oneof![any::<u16>().prop_map(Namespace::Pci), token().prop_map(Namespace::Mdev)],
        (driver, kind, name) in (token(), token(), token()),
        mut versions in prop::array::uniform3(version()),
        needs in prop::collection::btree_set(token(), 0..6),
        offers in prop::collection::btree_set(token(), 0..6),
        attributes in prop::collection::btree_map(
            "[a-z][a-z0-9_.-]{0,10}".prop_filter("reserved", |key| key != "needs" && key != "offers"),
            ("[A-Za-z0-9_.+:-]{1,20}", any::<bool>()),
            0..8,
        ),
    ) -> Identity {
        versions.sort_unstable();
        let format = Format::new(&name, versions[1]).unwrap().reading(versions[0], versions[2]).unwrap();
        let identity = Identity::new(namespace, &driver, &kind, format).unwrap();
        let identity = needs.iter().try_fold(identity, |identity, need| identity.need(need)).unwrap();
        let identity = offers.iter().try_fold(identity, |identity, offer| identity.offer(offer)).unwrap();
        attributes.iter().fold(identity, |identity, (key, (value, required))| {
            if *required { identity.require(key, value) } else { identity.inform(key, value) }.unwrap()
        })
    }
}

proptest! {
    #[test]
    fn text_and_value_are_the_same(identity in identities()) {
        prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
    }

    #[test]
    fn every_identity_fits_itself(identity in identities()) {
        prop_assert!(compatible_by_instance(&identity, &identity).is_compatible());
        prop_assert!(compatible_by_type(&identity, &identity).undecided().is_empty());
    }

    /// One character replaced: refused with a column inside the text, or an identity whose text is read again.
    #[test]
    fn damage_is_refused_or_means_something(identity in identities(), at in any::<prop::sample::Index>(), by in any::<char>()) {
        let mut text: Vec<char> = identity.to_string().chars().collect();
        let at = at.index(text.len());
        text[at] = by;
        let text: String = text.into_iter().collect();
        match text.parse::<Identity>() {
            Ok(other) => prop_assert_eq!(other.to_string().parse::<Identity>(), Ok(other)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error),
        }
    }

    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        let _ = text.parse::<Identity>();
        let _ = format!("mig1:{text}").parse::<Identity>();
    }

    /// A type's verdict never has more reasons than an instance's.
    #[test]
    fn instances_are_judged_at_least_as_strictly(source in identities(), target in identities()) {
        let (kind, instance) = (compatible_by_type(&source, &target), compatible_by_instance(&source, &target));
        prop_assert!(instance.reasons().starts_with(kind.reasons()));
    }
}
