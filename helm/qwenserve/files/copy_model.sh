set -f # the patterns of SKIP stay patterns
cd "$SOURCE" || { echo "there is no folder $SOURCE"; exit 1; }
[ -f "$LIST" ] || { echo "there is no $LIST in $SOURCE: make it with sha256sum"; exit 1; }
echo "$LIST_SHA256  $LIST" | sha256sum -c - >/dev/null ||
  { echo "$LIST is not the one that the values name (source.copy.sha256)"; exit 1; }
wanted=/model/.wanted
: >"$wanted"
while read -r sum file; do
  file=${file#\*}
  for pattern in $SKIP; do
    case "${file##*/}" in $pattern) continue 2 ;; esac
  done
  [ -f "$file" ] || { echo "$LIST names $file, and it is not there"; exit 1; }
  mkdir -p "/model/$(dirname "$file")"
  cp "$file" "/model/$file"
  echo "$sum  $file" >>"$wanted"
done <"$LIST"
cd /model
sha256sum -c "$wanted" || { echo "what was copied is not what $LIST says"; exit 1; }
