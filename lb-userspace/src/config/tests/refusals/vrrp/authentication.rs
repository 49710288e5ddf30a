//! What is refused in `[[vrrp]]`: authentication.

use insta::assert_snapshot;

use super::super::super::refusal_with;

#[test]
fn a_password_in_version_3_is_refused() {
    assert_snapshot!(refusal_with("version = 2", "version = 3"), @r#"
    lb.toml:141: VRRP instance "VI_2", authentication: type "pass" is only in version 2
        write version = 2 in the instance, or type = "hmac-sha256" here
    "#);
}

#[test]
fn an_hmac_in_version_2_is_refused() {
    assert_snapshot!(refusal_with("type = \"pass\"\n  password = \"s3cret\"", "type = \"hmac-sha256\"\n  key = \"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e40\""), @r#"
    lb.toml:141: VRRP instance "VI_2", authentication: type "hmac-sha256" is only in version 3
        write version = 3 in the instance, or type = "pass" here
    "#);
}

#[test]
fn authentication_without_a_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "pass""#, ""), @r#"
    lb.toml:140: VRRP instance "VI_2", authentication: type is missing
        add it, for example type = "hmac-sha256"
    "#);
}

#[test]
fn authentication_of_an_unknown_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "pass""#, r#"type = "ah""#), @r#"
    lb.toml:141: VRRP instance "VI_2", authentication: type "ah" is not known
        write "pass" or "hmac-sha256"
    "#);
}

#[test]
fn a_missing_password_is_refused() {
    assert_snapshot!(refusal_with(r#"password = "s3cret""#, ""), @r#"
    lb.toml:140: VRRP instance "VI_2", authentication: password is missing
        add it, for example password = "1to8char"
    "#);
}

#[test]
fn a_missing_hmac_key_is_refused() {
    assert_snapshot!(refusal_with(r#"key = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f""#, ""), @r#"
    lb.toml:93: VRRP instance "VI_1", authentication: key is missing
        add it, for example key = "(the output of `openssl rand -hex 32`)"
    "#);
}

#[test]
fn a_key_beside_a_password_is_refused() {
    assert_snapshot!(refusal_with(r#"password = "s3cret""#, "password = \"s3cret\"\n  key = \"00\""), @r#"
    lb.toml:143: VRRP instance "VI_2", authentication: key does not apply to authentication of type "pass"
        remove it, or write type = "hmac-sha256"
    "#);
}

#[test]
fn a_long_password_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""s3cret""#, r#""s3cret-s3cret""#), @r#"
    lb.toml:142: VRRP instance "VI_2", authentication: password has 13 characters, and an advertisement has room for 8
        write the first 8 of them: keepalived sends no more either
    "#);
}

#[test]
fn an_empty_password_is_refused() {
    assert_snapshot!(refusal_with(r#""s3cret""#, r#""""#), @r#"
    lb.toml:142: VRRP instance "VI_2", authentication: password is empty
        write 1 to 8 letters, digits and other printable ASCII characters
    "#);
}

#[test]
fn a_password_that_is_not_ascii_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""s3cret""#, r#""s3crét""#), @r#"
    lb.toml:142: VRRP instance "VI_2", authentication: password has characters that are not printable ASCII
        write 1 to 8 letters, digits and other printable ASCII characters
    "#);
}

#[test]
fn an_hmac_key_that_is_too_short_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f""#, r#""2021""#), @r#"
    lb.toml:95: VRRP instance "VI_1", authentication: key is not a key of 64 hexadecimal digits
        write the output of `openssl rand -hex 32`, the same on all nodes of the virtual router
    "#);
}
