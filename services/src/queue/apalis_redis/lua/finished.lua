-- Removes what finished tasks leave behind, 526 bytes each. It goes by what Redis itself says is done, never by
-- what a worker remembers: after a restored snapshot a remembered id may be queued again, and a queued id without
-- payload ends every worker that fetches it.
-- KEYS: done, dead, data, meta prefix. ARGV: how many at most. Returns how many were removed.
local removed = 0
for i = 1, 2 do
  for _, id in ipairs(redis.call('spop', KEYS[i], tonumber(ARGV[1]))) do
    redis.call('hdel', KEYS[3], id)
    redis.call('del', KEYS[4] .. ':' .. id)
    removed = removed + 1
  end
end
return removed
