//! What is refused in `[[vrrp]]`: announcements and notify programs.

use insta::assert_snapshot;

use super::super::super::refusal_with;

#[test]
fn a_repeat_of_0_is_refused() {
    assert_snapshot!(refusal_with("repeat = 5", "repeat = 0"), @r#"
    lb.toml:98: VRRP instance "VI_1", announcement: repeat 0 is out of range
        write a whole number from 1 to 20
    "#);
}

#[test]
fn an_announcement_delay_over_a_minute_is_refused() {
    assert_snapshot!(refusal_with(r#"delay = "3s""#, r#"delay = "61s""#), @r#"
    lb.toml:99: VRRP instance "VI_1", announcement: delay "61s" is out of range
        write a duration from 0s to 1m, with its unit, such as "1s"
    "#);
}

#[test]
fn a_refresh_over_an_hour_is_refused() {
    assert_snapshot!(refusal_with(r#"refresh = "30s""#, r#"refresh = "2h""#), @r#"
    lb.toml:100: VRRP instance "VI_1", announcement: refresh "2h" is out of range
        write a duration from 0s to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_program_with_a_relative_path_is_refused() {
    assert_snapshot!(refusal_with(r#""/usr/local/bin/fault""#, r#""fault""#), @r#"
    lb.toml:90: VRRP instance "VI_1": notify_fault "fault" is not an absolute path
        write a path that begins with /
    "#);
}

#[test]
fn a_program_with_a_relative_path_and_arguments_is_refused() {
    assert_snapshot!(refusal_with(r#"["/usr/local/bin/notify", "vip 1"]"#, r#"["notify", "vip 1"]"#), @r#"
    lb.toml:87: VRRP instance "VI_1": notify "notify" is not an absolute path
        write a path that begins with /
    "#);
}

#[test]
fn a_program_with_arguments_in_one_string_is_refused() {
    assert_snapshot!(refusal_with(r#""/usr/local/bin/fault""#, r#""/usr/local/bin/fault  now""#), @r#"
    lb.toml:90: VRRP instance "VI_1": notify_fault "/usr/local/bin/fault  now" has a space in it
        write ["/usr/local/bin/fault", "now"] for a program with arguments, or ["/usr/local/bin/fault  now"] for a path with a space
    "#);
}

#[test]
fn no_program_is_refused() {
    assert_snapshot!(refusal_with(r#"["/usr/local/bin/stop"]"#, "[]"), @r#"
    lb.toml:91: VRRP instance "VI_1": notify_stop is empty
        write a program and its arguments, as in ["/usr/local/bin/notify", "vip"]
    "#);
}

#[test]
fn an_argument_that_is_a_number_is_refused() {
    assert_snapshot!(refusal_with(r#""vip 1""#, "1"), @r#"
    lb.toml:87: VRRP instance "VI_1": notify #2 is a whole number
        write the same in double quotes
    "#);
}

#[test]
fn an_argument_with_a_zero_is_refused() {
    assert_snapshot!(refusal_with(r#""vip 1""#, r#""vip\u00001""#), @r#"
    lb.toml:87: VRRP instance "VI_1": notify #2 has a zero character in it
        remove the character
    "#);
}
