//! What people keep in key files, edited.

use super::*;

fn digest(fill: char) -> Digest {
    Digest { kind: DigestKind::Sha256, hex: fill.to_string().repeat(64), last4: "wxyz".into() }
}

fn entry(id: &str) -> NewEntry {
    NewEntry {
        id: id.into(),
        tenant: "acme".into(),
        digest: digest('d'),
        created: None,
        label: None,
        scopes: Some(vec!["sms:send".into()]),
        plan: None,
        not_before: None,
        expires: None,
        allow: vec![],
        limits: vec![],
    }
}

fn revoked(text: &str, id: &str, why: Option<&str>) -> String {
    match revoke(text, Format::Yaml, id, Wall(0), why).unwrap() {
        Revoked::Now(text) => text,
        Revoked::Before(when) => panic!("revoked {when}"),
    }
}

fn appended(text: &str) -> String {
    append(text, Format::Yaml, &entry("new")).unwrap()
}

fn d64() -> String {
    "d".repeat(64)
}

const BLOCK: &str = "\
# Keys of the platform.

- id: a          # Ann's
  tenant: acme
  digest: { sha256: aa }   # made in May
  last4: abcd

  # a comment between
- id: b
  tenant: acme
  digests:
    - sha256: bb      # the first
      until: 2030-01-01
    - sha256: cc
  scopes:
    - sms:send   # for sending
# the end
";

#[test]
fn a_new_key_goes_to_the_end_and_nothing_else_moves() {
    let new = format!(
        "- id: new\n  tenant: acme\n  digest: {{ sha256: {} }}\n  last4: wxyz\n  scopes: [sms:send]\n",
        d64()
    );
    assert_eq!(appended(BLOCK), format!("{BLOCK}{new}"));
    for empty in ["", "# only comments\n", "# no newline", "---\n"] {
        let gap = if empty.ends_with("newline") { "\n" } else { "" };
        assert_eq!(appended(empty), format!("{empty}{gap}{new}"), "{empty:?}");
    }
}

#[test]
fn a_list_keeps_its_style_its_indent_and_its_line_ends() {
    let flow = format!(
        "{{ id: new, tenant: acme, digest: {{ sha256: {} }}, last4: wxyz, scopes: [sms:send] }}",
        d64()
    );
    assert_eq!(appended("- { id: a, tenant: t }"), format!("- {{ id: a, tenant: t }}\n- {flow}\n"));
    assert_eq!(appended("[{ id: a, tenant: t }]"), format!("[{{ id: a, tenant: t }}, {flow}]"));
    assert_eq!(
        appended("[\n  { id: a, tenant: t }, # Ann\n]\n"),
        format!("[\n  {{ id: a, tenant: t }},\n  {flow}, # Ann\n]\n")
    );
    assert!(appended("  - id: a\r\n    tenant: t\r\n").ends_with("\r\n    scopes: [sms:send]\r\n"));
    assert!(
        appended("# none yet\n[]  # empty\n").starts_with("# none yet\n  # empty\n- id: new\n")
    );
    assert!(appended("[]").starts_with("- id: new\n"));
    assert!(appended("- id: a\n  tenant: t\n...\n").ends_with("scopes: [sms:send]\n...\n"));
}

#[test]
fn a_revocation_is_one_line_more() {
    let text = revoked(BLOCK, "a", Some("leaked: see \"4711\""));
    let line = "  revoked: { at: 1970-01-01T00:00:00Z, why: \"leaked: see \\\"4711\\\"\" }\n";
    assert_eq!(text, BLOCK.replace("  last4: abcd\n", &format!("  last4: abcd\n{line}")));
    let text = revoked(BLOCK, "b", None);
    let line = "    - sms:send   # for sending\n  revoked: { at: 1970-01-01T00:00:00Z }\n";
    assert_eq!(text, BLOCK.replace("    - sms:send   # for sending\n", line));
    assert!(matches!(revoke(&text, Format::Yaml, "b", Wall(1), None), Ok(Revoked::Before(_))));
}

#[test]
fn entries_in_braces_are_edited_inside_their_braces() {
    let text = "- { id: a, tenant: t, } # Ann\n- { id: \"b\",\n    label: 'it''s' }\n";
    let at = "revoked: { at: 1970-01-01T00:00:00Z }";
    assert_eq!(revoked(text, "a", None), text.replace("tenant: t", &format!("tenant: t, {at}")));
    assert_eq!(revoked(text, "b", None), text.replace("'it''s'", &format!("'it''s', {at}")));
}

#[test]
fn odd_ends_of_entries_are_found() {
    let at = "revoked: { at: 1970-01-01T00:00:00Z }";
    for (text, expected) in [
        ("- id: a", format!("- id: a\n  {at}\n")),
        ("- id: a\n  label:", format!("- id: a\n  label:\n  {at}\n")),
        (
            "- id: a\n  label: |\n    two\n    lines\n\n\n",
            format!("- id: a\n  label: |\n    two\n    lines\n  {at}\n\n\n"),
        ),
        ("-\n  id: a\n  revoked: null # no\n", format!("-\n  id: a\n  {at} # no\n")),
        (
            "-   label: \"a\n      b\"\n    id: a # x",
            format!("-   label: \"a\n      b\"\n    id: a # x\n    {at}\n"),
        ),
        ("- id: a\r\n- id: b\r\n", format!("- id: a\r\n  {at}\r\n- id: b\r\n")),
        (
            "- id: a\n  label: ü – ☃\n- id: b\n",
            format!("- id: a\n  label: ü – ☃\n  {at}\n- id: b\n"),
        ),
    ] {
        assert_eq!(revoked(text, "a", None), expected, "{text:?}");
    }
}

#[test]
fn a_rotation_without_overlap_leaves_the_new_digest_alone() {
    let text = rotate(BLOCK, Format::Yaml, "a", &digest('e'), Overlap::None, Wall(0)).unwrap();
    let expected = BLOCK.replace("aa", &"e".repeat(64)).replace("abcd", "wxyz");
    assert_eq!(text, expected);
}

#[test]
fn a_rotation_with_overlap_keeps_the_old_ones_until_then_and_their_comments() {
    let until = Overlap::Until(Wall(1000));
    let text = rotate(BLOCK, Format::Yaml, "b", &digest('e'), until, Wall(0)).unwrap();
    let key = list(&text, Format::Yaml).unwrap().swap_remove(1);
    let of = |place: usize| (key.digests[place].digest.hex.as_str(), key.digests[place].until);
    assert_eq!(of(0), (digest('e').hex.as_str(), None));
    assert_eq!(of(1), ("bb", Some(Wall(1000))));
    assert_eq!(of(2), ("cc", Some(Wall(1000))));
    assert!(text.contains("  # the first\n  digests: [{ sha256: eeee"), "{text}");
    let later = Wall(2000);
    let text = rotate(&text, Format::Yaml, "b", &digest('f'), Overlap::Until(Wall(9000)), later);
    let key = list(&text.unwrap(), Format::Yaml).unwrap().swap_remove(1);
    assert_eq!(key.digests.len(), 2, "what ended before is dropped");
}

#[test]
fn json_lines_only_ever_grow() {
    let text = "{\"id\":\"a\",\"tenant\":\"t\",\"digest\":{\"sha256\":\"aa\"},\"new\":1}";
    let grown = append(text, Format::JsonLines, &entry("b")).unwrap();
    assert!(grown.starts_with(&format!("{text}\n{{\"id\":\"b\"")) && grown.ends_with("}\n"));
    let Ok(Revoked::Now(grown)) = revoke(&grown, Format::JsonLines, "a", Wall(0), None) else {
        panic!("not revoked")
    };
    assert_eq!(grown.lines().count(), 3);
    assert!(grown.lines().next_back().unwrap().contains("\"new\":1,\"revoked\":{\"at\":"));
    let listed = list(&grown, Format::JsonLines).unwrap();
    assert_eq!(listed.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(listed[0].revoked.is_some());
    let grown = rotate(&grown, Format::JsonLines, "b", &digest('e'), Overlap::None, Wall(0));
    assert!(grown.unwrap().lines().next_back().unwrap().contains("eeee"));
}

#[test]
fn what_cannot_be_edited_is_said() {
    let why = |text: &str| append(text, Format::Yaml, &entry("a")).unwrap_err();
    assert_eq!(why("keys: []\n"), EditProblem::NoList);
    assert_eq!(why("- id: a\n"), EditProblem::Taken);
    assert_eq!(why("- 12\n"), EditProblem::NoEntry { line: 1 });
    assert_eq!(why("- id: x\n---\n- id: y\n"), EditProblem::Documents { line: 2 });
    assert!(matches!(why("- {\n"), EditProblem::Yaml(_)));
    let shared = "- &one { id: a }\n- *one\n";
    assert!(matches!(list(shared, Format::Yaml), Err(EditProblem::Shared { line: 2 })));
    let text = "- &one { id: a }\n";
    assert_eq!(
        revoke(text, Format::Yaml, "a", Wall(0), None),
        Err(EditProblem::Shared { line: 1 })
    );
    let unknown = revoke(BLOCK, Format::Yaml, "c", Wall(0), None);
    assert_eq!(unknown, Err(EditProblem::Unknown { ids: vec!["a".into(), "b".into()] }));
    let text = revoked(BLOCK, "a", None);
    let again = rotate(&text, Format::Yaml, "a", &digest('e'), Overlap::None, Wall(0));
    assert_eq!(again, Err(EditProblem::IsRevoked));
}

/// A key file as somebody might have laid it out: any mix of styles, comments, blank lines and line ends.
fn laid_out() -> impl proptest::strategy::Strategy<Value = (String, usize)> {
    use proptest::prelude::*;
    let comment = prop_oneof![Just(""), Just(" # note"), Just("  # a: [b, {c")];
    let one = (0..6usize, comment, 0..3usize, 0..3usize);
    (prop::collection::vec(one, 1..6), any::<bool>(), any::<bool>(), 0..3usize).prop_map(
        |(entries, crlf, ends, indent)| {
            let pad = " ".repeat(indent);
            let mut text = String::from("# head\n");
            for (number, (style, comment, blank, width)) in entries.iter().enumerate() {
                let in_entry = format!("{pad}  {}", " ".repeat(*width));
                let dash = format!("{pad}- {}", " ".repeat(*width));
                let laid = match style {
                    0 => format!("{dash}id: k{number}{comment}\n{in_entry}digest: {{ sha256: aa }}\n"),
                    1 => format!("{dash}{{ id: k{number}, digest: {{ sha256: aa }} }}{comment}\n"),
                    2 => format!(
                        "{dash}id: 'k{number}'\n{in_entry}digest:{comment}\n{in_entry}  sha256: aa{comment}\n"
                    ),
                    3 => format!(
                        "{dash}digests:\n{in_entry}- sha256: aa{comment}\n{in_entry}- {{ hmac: bb }}\n{in_entry}id: \"k{number}\"{comment}\n"
                    ),
                    4 => format!(
                        "{dash}id: k{number}\n{in_entry}digest: {{ sha256: aa,{comment}\n{in_entry}  until: 2090-01-01 }}\n{in_entry}label: |\n{in_entry}  a - b\n{in_entry}  # no comment\n"
                    ),
                    _ => format!(
                        "{dash}{{ id: k{number},{comment}\n{in_entry}  digest: {{ sha256: aa }}, label: ~ }}\n"
                    ),
                };
                text.push_str(&laid);
                text.push_str(&"\n".repeat(*blank));
            }
            if !ends {
                text.truncate(text.trim_end().len());
            }
            let text = if crlf { text.replace('\n', "\r\n") } else { text };
            (text, entries.len())
        },
    )
}

/// Every comment of the text, in order.
fn comments(text: &str) -> Vec<String> {
    let tree = tree::parse(text).unwrap();
    tree.comments.iter().map(|at| text[at.clone()].trim_end().to_owned()).collect()
}

proptest::proptest! {
    #[test]
    fn any_layout_can_be_edited_and_keeps_its_comments((text, count) in laid_out(), pick in 0..6usize) {
        let id = format!("k{}", pick % count);
        let grown = appended(&text);
        assert!(grown.starts_with(text.as_str()));
        let gone = revoked(&grown, &id, Some("why: # not"));
        assert_eq!(comments(&gone), comments(&text));
        for overlap in [Overlap::None, Overlap::Until(Wall(1))] {
            let turned = rotate(&text, Format::Yaml, &id, &digest('e'), overlap, Wall(0)).unwrap();
            let (mut before, mut after) = (comments(&text), comments(&turned));
            before.sort();
            after.sort();
            assert_eq!(before, after, "{turned}");
        }
    }

    #[test]
    fn no_text_makes_the_editor_panic(text in "[-a-z:{}\\[\\]#&*|>'\", \r\n~!%ü]{0,60}") {
        let _ = append(&text, Format::Yaml, &entry("new"));
        let _ = revoke(&text, Format::Yaml, "a", Wall(0), None);
        let _ = append(&text, Format::JsonLines, &entry("new"));
    }
}
