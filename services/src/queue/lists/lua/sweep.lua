-- Forgets hints whose worker is dead: they are held, do not wait, and were so a while ago already. The score says since when, by
-- this server's clock; 0 says that no sweep has met the hint so.
-- KEYS: waiting, held. ARGV: for how many ms such a hint stays held.
if redis.call('zcard', KEYS[2]) == redis.call('llen', KEYS[1]) then
  return
end
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waits = {}
for _, hint in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do
  waits[string.match(hint, '^%S+')] = true
end
local held = redis.call('zrange', KEYS[2], 0, -1, 'withscores')
for i = 1, #held, 2 do
  local id, since = held[i], tonumber(held[i + 1])
  if not waits[id] then
    if since == 0 then
      redis.call('zadd', KEYS[2], now, id)
    -- A clock that was set back must not make it longer.
    elseif now - since >= tonumber(ARGV[1]) or since > now then
      redis.call('zrem', KEYS[2], id)
    end
  end
end
